-- Count a key as wrong before it is looked up, or take that back. KEYS: wrong keys of an address, its key that was right
-- ARGV: 'begin', number, most or: 'accepted', number, seconds to remember
-- Returns begin: {microseconds to wait, counted 0/1}
local WINDOW, SECOND = 60000000, 1000000
local wrong, right = KEYS[1], KEYS[2]
if ARGV[1] == 'accepted' then
  redis.call('ZREM', wrong, ARGV[2])
  redis.call('SET', right, 1, 'EX', ARGV[3])
  return {0, 0}
end
if redis.call('EXISTS', right) == 1 then return {0, 0} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * SECOND + tonumber(time[2])
local most = tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', wrong, '-inf', string.format('%.0f', now - WINDOW))
if redis.call('ZCARD', wrong) >= most then
  local found = redis.call('ZRANGE', wrong, -most, -most, 'WITHSCORES')
  return {string.format('%.0f', math.max(tonumber(found[2]) + WINDOW - now, 1)), 0}
end
redis.call('ZADD', wrong, string.format('%.0f', now), ARGV[2])
redis.call('PEXPIRE', wrong, WINDOW / 1000)
return {0, 1}
