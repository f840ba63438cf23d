-- needs: session, life, state
-- Returns the state at exactly one token. ARGV: its epoch and revision.

local head = load_head()
if not published(head) then
  return {'none'}
end
local state, unreachable = state_at(head, tonumber(ARGV[1]), tonumber(ARGV[2]))
if not state then
  return unreachable
end
local at = ARGV[1] .. '.' .. ARGV[2]
return {'full', text(head.confirmed_at), head.heard, at, head.epochs, head.authority, flattened(state)}
