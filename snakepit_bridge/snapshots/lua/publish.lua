-- needs: session, request, life, state, stage, commit
-- Commits changes to a session, all or none, and returns the token of the state with them.
-- ARGV from 15 on: '1' if the changes are the whole state, then name, value, name, value, …; '' deletes.

local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
local refused = refusal(head) or unready(head)
if refused then
  return refused
end
local updates = {}
for i = 16, #ARGV, 2 do
  updates[ARGV[i]] = ARGV[i + 1]
end
return commit(head, updates, ARGV[15] == '1', true)
