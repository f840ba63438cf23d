-- needs: session, request, life, state, redis/audit, stage, commit
-- Records that a read of the authority found no change. Idempotent, so it stores no request marker.

local head = load_head()
if not published(head) then
  return {'none'}
end
local refused = refusal(head)
if refused then
  return refused
end
confirm(head)
save_head(head)
live(head)
return {'confirmed'}
