-- needs: session, request, life, redis/audit
-- Declares checks, all or none. ARGV: the publisher, the version of the checks and the token of the state that the new
-- ones were evaluated on, then name, check, name, check, …; '' removes one; then author, reason
-- and those of redis/audit.

local PUBLISHER, CHECKED, BASE = ARGV[1], ARGV[2], ARGV[3]
local AUTHOR, REASON, LAST = ARGV[#ARGV - AUDIT_ARGS - 1], ARGV[#ARGV - AUDIT_ARGS], #ARGV - AUDIT_ARGS - 2
local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
if head.authority ~= '' and head.authority ~= PUBLISHER then
  return {'owned', head.authority}
end
if head.checks ~= CHECKED or BASE ~= (published(head) and token(head) or '0.0') then
  return {'unchecked'}
end
local before = tonumber(head.checks) or 0
save_head(head)
local names = {}
for i = 4, LAST, 2 do
  names[#names + 1] = ARGV[i]
  if ARGV[i + 1] == '' then
    redis.call('HDEL', CHECKS, ARGV[i])
  else
    redis.call('HSET', CHECKS, ARGV[i], ARGV[i + 1])
  end
end
-- A version is never reused, so that it can't be confused with that of a dropped session.
head.checks = redis.call('EXISTS', CHECKS) == 1 and text(math.max(now_us(), before + 1)) or ''
save_head(head)
if published(head) then
  live_as_before()
else
  live(head)
end
local at = published(head) and token(head) or ''
record_change('declare_checks', AUTHOR, REASON, at, at, names)
return done(head.checks)
