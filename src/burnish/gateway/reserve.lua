-- Reserve and settle in one step. KEYS: counters, spent, ends, holds, day budget, month budget (one hash slot).
-- ARGV: 'reserve', clock or 0, tokens, nano_usd, lease_us, hold, day, seven limits (-1: none)
--   or: 'settle', clock or 0, tokens, nano_usd, hold, key of the budgets without their period
-- Returns reserve: {granted 0/1, reason, retry_us (-1: never), requests, tokens, newest_us, now_us}
local WINDOW, SECOND = 60000000, 1000000
local counters, spent, ends, holds = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function text(number) return string.format('%.0f', number) end
local function get(field) return tonumber(redis.call('HGET', counters, field) or '0') end
local now = tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * SECOND + tonumber(time[2])
end
local latest, requests, tokens = get('latest'), get('requests'), get('tokens')
if now < latest then now = latest end

local function spend(at, more_requests, more_tokens)
  redis.call('RPUSH', spent, text(at) .. ':' .. more_requests .. ':' .. text(more_tokens))
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', text(now))) do  -- holds whose lease has ended
  local held = string.match(redis.call('HGET', holds, id), '^(%d+)')
  spend(now, 0, tonumber(held))
  redis.call('ZREM', ends, id)
  redis.call('HDEL', holds, id)
end
while true do
  local oldest = redis.call('LINDEX', spent, 0)
  if not oldest then break end
  local at, r, t = string.match(oldest, '^(%d+):(%d+):(%d+)$')
  if tonumber(at) >= now - WINDOW then break end
  redis.call('LPOP', spent)
  requests, tokens = requests - tonumber(r), tokens - tonumber(t)
end
local running = redis.call('ZCARD', ends)
local function keep()
  redis.call('HSET', counters, 'latest', text(now), 'requests', text(requests), 'tokens', text(tokens))
  for _, key in ipairs({counters, spent, ends, holds}) do redis.call('PEXPIRE', key, 172800000) end
end
local function budget(key, more_tokens, more_money)
  redis.call('HINCRBY', key, 'tokens', text(more_tokens))
  redis.call('HINCRBY', key, 'nano_usd', text(more_money))
  redis.call('PEXPIRE', key, 5529600000)
end

if ARGV[1] == 'settle' then
  local hold = redis.call('HGET', holds, ARGV[5])
  if hold then
    local used, money = tonumber(ARGV[3]), tonumber(ARGV[4])
    local held, held_money, day = string.match(hold, '^(%d+):(%d+):(.+)$')
    redis.call('ZREM', ends, ARGV[5])
    redis.call('HDEL', holds, ARGV[5])
    spend(now, 0, used)
    tokens = tokens + used - tonumber(held)
    budget(ARGV[6] .. day, used - tonumber(held), money - tonumber(held_money))
    budget(ARGV[6] .. string.sub(day, 1, 7), used - tonumber(held), money - tonumber(held_money))
  end
  keep()
  return {1}
end

local ask, money, lease, id, day = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local function of(key, field) return tonumber(redis.call('HGET', key, field) or '0') end
local day_tokens, day_money = of(KEYS[5], 'tokens'), of(KEYS[5], 'nano_usd')
local month_tokens, month_money = of(KEYS[6], 'tokens'), of(KEYS[6], 'nano_usd')
local checks = {  -- what would be counted, and what the request is by itself; the order is that of limits.first_met
  {'concurrency', tonumber(ARGV[10]), running + 1, 1}, {'requests_per_minute', tonumber(ARGV[8]), requests + 1, 1},
  {'tokens_per_minute', tonumber(ARGV[9]), tokens + ask, ask},
  {'tokens_per_day', tonumber(ARGV[11]), day_tokens + ask, ask},
  {'tokens_per_month', tonumber(ARGV[12]), month_tokens + ask, ask},
  {'usd_per_day', tonumber(ARGV[13]), day_money + money, money},
  {'usd_per_month', tonumber(ARGV[14]), month_money + money, money},
}
local newest = string.match(redis.call('LINDEX', spent, -1) or '0', '^(%d+)')
local met, never = nil, false
for _, check in ipairs(checks) do
  if check[2] >= 0 and check[3] > check[2] and not met then met = check end
  if check[2] >= 0 and check[4] > check[2] then never = true end
end
if met then
  local retry, excess = SECOND, met[3] - met[2]
  if met[1] == 'requests_per_minute' or met[1] == 'tokens_per_minute' then
    for _, item in ipairs(redis.call('LRANGE', spent, 0, -1)) do
      local at, r, t = string.match(item, '^(%d+):(%d+):(%d+)$')
      excess = excess - tonumber(met[1] == 'requests_per_minute' and r or t)
      if excess <= 0 then
        retry = math.max(tonumber(at) + WINDOW + 1 - now, 1)
        break
      end
    end
  end
  keep()
  return {0, met[1], never and '-1' or text(retry), text(requests), text(tokens), newest, text(now)}
end
redis.call('ZADD', ends, text(now + lease), id)
redis.call('HSET', holds, id, text(ask) .. ':' .. text(money) .. ':' .. day)
spend(now, 1, 0)
requests, tokens = requests + 1, tokens + ask
budget(KEYS[5], ask, money)
budget(KEYS[6], ask, money)
keep()
return {1, '', '0', text(requests), text(tokens), text(now), text(now)}
