-- needs: redis/audit
-- Sets or removes a rule. Whoever removes one, or has it ask for fewer approvals, needs the approvals that it asks for.
-- KEYS: the rules. ARGV: the rule's field, its new value ('' to remove it), author; then those of redis/audit.
-- Returns {'set'}, or a refusal of redis/audit. Running it twice changes nothing the second time.

local FIELD, VALUE, AUTHOR = ARGV[1], ARGV[2], ARGV[3]
local refused = unapproved()
if refused then
  return refused
end
local found = redis.call('HGET', KEYS[1], FIELD)
local before = found and string.match(found, '^%d+') or ''
local after = string.match(VALUE, '^%d+') or ''
if before == after then
  return {'set'}
end
if APPROVED == '' and RULES ~= '' and before ~= '' and (tonumber(after) or 0) < tonumber(before) then
  return {'protected', FIELD, before, before}
end
if VALUE == '' then
  redis.call('HDEL', KEYS[1], FIELD)
else
  redis.call('HSET', KEYS[1], FIELD, VALUE)
end
record_change(VALUE == '' and 'unprotect' or 'protect', AUTHOR, '', before, after)
return {'set'}
