-- needs: session, request, life, state, redis/audit, stage, commit
-- Commits changes to a session, all or none, and returns the token of the state with them.
-- ARGV from 15 on: '1' if the changes are the whole state, how many words they are, then name, value, name, value, …;
-- '' deletes. Behind them name and value of what counts as equal to the change of that name; then those of redis/audit.

local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
local refused = unapproved() or refusal(head) or unready(head)
if refused then
  return refused
end
local updates, equals, last = {}, {}, 16 + tonumber(ARGV[16])
for i = 17, last, 2 do
  updates[ARGV[i]] = ARGV[i + 1]
end
for i = last + 1, #ARGV - AUDIT_ARGS, 2 do
  equals[ARGV[i]] = equals[ARGV[i]] or {}
  equals[ARGV[i]][ARGV[i + 1]] = true
end
refused = guard(head, updates, ARGV[15] == '1', equals)
if refused then
  return refused
end
local stages = may_stage(head, updates, ARGV[15] == '1') and alters(updates, ARGV[15] == '1', equals)
local unready_to_stage = stages and unindexed('staged')
if unready_to_stage then
  return unready_to_stage
end
return commit(head, 'publish', updates, ARGV[15] == '1', true, equals)
