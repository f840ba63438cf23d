-- needs: session
-- Where a session is and who publishes it.

local head = load_head()
if not published(head) then
  return {'none'}
end
return {'head', token(head), head.authority, text(head.fence), text(head.confirmed_at), text(now_us()), head.heard}
