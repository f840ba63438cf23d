-- needs: permits
-- Admit a call of a task that keeps its worker slot, or return how long to wait.
-- ARGV: permit, profile, tokens, money, lease in ms, then the buckets.
-- Returns {1}, or {0, 's' or 'p' for the session's or the profile's limit, wait in ms}. Idempotent per permit.

local id, profile = ARGV[1], ARGV[2]
local costs = {1, tonumber(ARGV[3]), tonumber(ARGV[4])}
local lease, buckets, now = tonumber(ARGV[5]), buckets_at(6), clock()
local waiting = key('in_place:' .. profile)

if permit(id) then
  return {1}
end
local whose, wait = obstacle(profile, buckets, costs, now)
if whose and lapse(now) > 0 then
  whose, wait = obstacle(profile, buckets, costs, now)
end
if not whose then
  redis.call('ZREM', waiting, id)
  grant(id, GRANTED, profile, buckets, costs, now, lease)
  return {1}
end
wait = math.min(wait, 1000)
if whose == 'p' then
  -- While it is registered, no task that hasn't started yet is admitted before it.
  redis.call('ZADD', waiting, 'NX', number(now + wait + 2000), id)
  redis.call('PEXPIRE', waiting, 10000)
  wait = wait * (1 + redis.call('ZRANK', waiting, id))
end
return {0, whose, number(math.min(wait, 1000))}
