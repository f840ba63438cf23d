-- needs: session, request, life, state, redis/audit, stage, commit
-- Commits a past state as a new revision. ARGV 15 and 16: epoch and revision of that state; then those of redis/audit.

local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
if not published(head) then
  return {'none'}
end
local refused = unapproved() or refusal(head) or unready(head)
if refused then
  return refused
end
local state, unreachable = state_at(head, tonumber(ARGV[15]), tonumber(ARGV[16]))
if not state then
  return unreachable
end
refused = guard(head, state, true)
if refused then
  return refused
end
-- A rollback is for everybody at once.
return commit(head, 'rollback', state, true, false)
