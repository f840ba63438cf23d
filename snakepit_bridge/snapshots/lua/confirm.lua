-- needs: session, request, life, commit
-- Notes that the authority was looked at and has nothing new. Run twice it does the same, so it remembers no request.

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
