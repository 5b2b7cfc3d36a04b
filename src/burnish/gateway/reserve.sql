-- Reserve and settle in one statement each, so that one round trip holds an account's row, and refusals hold none.
-- The rules are those of limits.py and reserve.lua; changed rules get a new number in the functions' names, since
-- replicas of two versions may share a database. `clock`: microseconds, or null for the server's own.

CREATE FUNCTION gateway_account_1(who text, clock bigint) RETURNS bigint LANGUAGE plpgsql AS $$
-- Lock the account, let lapsed holds go, drop what is older than the window. Returns the time, which never goes back.
DECLARE
  latest bigint;
  at bigint;
  gone_requests bigint;
  gone_tokens bigint;
  lapsed bigint;
BEGIN
  SELECT a.latest_us INTO latest FROM gateway_accounts a WHERE a.account = who FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO gateway_accounts (account) VALUES (who) ON CONFLICT DO NOTHING;
    SELECT a.latest_us INTO latest FROM gateway_accounts a WHERE a.account = who FOR UPDATE;
  END IF;
  at := greatest(coalesce(clock, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), latest);
  WITH ended AS (
    DELETE FROM gateway_holds h WHERE h.account = who AND h.ends_us <= at RETURNING h.ends_us, h.tokens
  ), counted AS (
    INSERT INTO gateway_spent SELECT who, ended.ends_us, 0, ended.tokens FROM ended
  )
  SELECT count(*) INTO lapsed FROM ended;
  WITH old AS (
    DELETE FROM gateway_spent s WHERE s.account = who AND s.at_us < at - 60000000 RETURNING s.requests, s.tokens
  )
  SELECT coalesce(sum(old.requests), 0), coalesce(sum(old.tokens), 0) INTO gone_requests, gone_tokens FROM old;
  IF lapsed > 0 OR gone_requests > 0 OR gone_tokens > 0 THEN
    UPDATE gateway_accounts a
      SET requests = a.requests - gone_requests, tokens = a.tokens - gone_tokens, running = a.running - lapsed
      WHERE a.account = who;
  END IF;
  RETURN at;
END $$;

CREATE FUNCTION gateway_budget_1(who text, day text, more_tokens bigint, more_nano bigint) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO gateway_budgets VALUES (who, day, more_tokens, more_nano), (who, left(day, 7), more_tokens, more_nano)
    ON CONFLICT (account, period) DO UPDATE
    SET tokens = gateway_budgets.tokens + excluded.tokens, nano_usd = gateway_budgets.nano_usd + excluded.nano_usd
$$;

CREATE FUNCTION gateway_reserve_1(
  who text, clock bigint, hold text, ask_tokens bigint, ask_nano bigint, lease_us bigint, most bigint[],
  OUT granted int, OUT reason text, OUT retry_us bigint, OUT requests bigint, OUT tokens bigint, OUT newest_us bigint,
  OUT at bigint
) LANGUAGE plpgsql AS $$
-- most: the limits in the order of limits.first_met, null for none. retry_us: -1 when the request never fits.
DECLARE
  names CONSTANT text[] := ARRAY[
    'concurrency', 'requests_per_minute', 'tokens_per_minute', 'tokens_per_day', 'tokens_per_month', 'usd_per_day',
    'usd_per_month'];
  alone CONSTANT bigint[] := ARRAY[1, 1, ask_tokens, ask_tokens, ask_tokens, ask_nano, ask_nano];
  counted bigint[];
  day text;
  met int;
  never boolean := false;
BEGIN
  FOR attempt IN 1..2 LOOP
    IF attempt = 1 THEN  -- without the lock: what refuses now changes nothing, and settlements need not wait for it
      at := coalesce(clock, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
      SELECT greatest(at, a.latest_us) INTO at FROM gateway_accounts a WHERE a.account = who;
      at := coalesce(at, clock, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    ELSE
      at := gateway_account_1(who, clock);
    END IF;
    day := to_char(to_timestamp(at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD');
    -- One statement sees one state. Without the lock, what has lapsed or is too old may still be counted in the account.
    SELECT a.requests - coalesce(old.requests, 0), a.tokens - coalesce(old.tokens, 0) - ended.over,
        ARRAY[a.running - ended.holds + 1, a.requests - coalesce(old.requests, 0) + 1,
          a.tokens - coalesce(old.tokens, 0) - ended.over + ask_tokens,
          coalesce(d.tokens, 0) + ask_tokens, coalesce(m.tokens, 0) + ask_tokens,
          coalesce(d.nano_usd, 0) + ask_nano, coalesce(m.nano_usd, 0) + ask_nano]
      INTO requests, tokens, counted
      FROM gateway_accounts a
      CROSS JOIN (
        SELECT sum(s.requests) AS requests, sum(s.tokens) AS tokens FROM gateway_spent s
          WHERE s.account = who AND s.at_us < at - 60000000) old
      CROSS JOIN (
        SELECT count(*) AS holds, coalesce(sum(h.tokens) FILTER (WHERE h.ends_us < at - 60000000), 0) AS over
          FROM gateway_holds h WHERE h.account = who AND h.ends_us <= at) ended
      LEFT JOIN gateway_budgets d ON d.account = who AND d.period = day
      LEFT JOIN gateway_budgets m ON m.account = who AND m.period = left(day, 7)
      WHERE a.account = who;
    IF NOT FOUND THEN
      requests := 0;
      tokens := 0;
      counted := alone;
    END IF;
    met := null;
    FOR number IN 1..7 LOOP
      IF met IS NULL AND counted[number] > most[number] THEN met := number; END IF;
      never := never OR coalesce(alone[number] > most[number], false);
    END LOOP;
    EXIT WHEN met IS NOT NULL;
  END LOOP;

  IF met IS NOT NULL THEN
    granted := 0;
    reason := names[met];
    retry_us := 1000000;
    IF met IN (2, 3) THEN
      SELECT greatest(sums.at_us + 60000001 - at, 1) INTO retry_us FROM (
        SELECT s.at_us,
            sum(CASE WHEN met = 2 THEN s.requests ELSE s.tokens END) OVER (ORDER BY s.at_us ROWS UNBOUNDED PRECEDING) AS upto
          FROM gateway_spent s WHERE s.account = who AND s.at_us >= at - 60000000) sums
        WHERE sums.upto >= counted[met] - most[met] ORDER BY sums.at_us LIMIT 1;
      retry_us := coalesce(retry_us, 1000000);
    END IF;
    IF never THEN retry_us := -1; END IF;
    SELECT coalesce(max(s.at_us), 0) INTO newest_us FROM gateway_spent s WHERE s.account = who;
    RETURN;
  END IF;

  INSERT INTO gateway_holds VALUES (hold, who, at + lease_us, ask_tokens, ask_nano, day);
  INSERT INTO gateway_spent VALUES (who, at, 1, 0);
  UPDATE gateway_accounts a
    SET latest_us = at, requests = a.requests + 1, tokens = a.tokens + ask_tokens, running = a.running + 1
    WHERE a.account = who;
  PERFORM gateway_budget_1(who, day, ask_tokens, ask_nano);
  granted := 1;
  reason := '';
  retry_us := 0;
  requests := requests + 1;
  tokens := tokens + ask_tokens;
  newest_us := at;
END $$;

CREATE FUNCTION gateway_settle_1(who text, clock bigint, hold text, used_tokens bigint, used_nano bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  at bigint;
  held record;
BEGIN
  at := gateway_account_1(who, clock);
  DELETE FROM gateway_holds h WHERE h.id = hold AND h.account = who RETURNING h.tokens, h.nano_usd, h.day INTO held;
  IF NOT FOUND THEN RETURN; END IF;
  INSERT INTO gateway_spent VALUES (who, at, 0, used_tokens);
  UPDATE gateway_accounts a
    SET latest_us = at, tokens = a.tokens + used_tokens - held.tokens, running = a.running - 1
    WHERE a.account = who;
  PERFORM gateway_budget_1(who, held.day, used_tokens - held.tokens, used_nano - held.nano_usd);
END $$
