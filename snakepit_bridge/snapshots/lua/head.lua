-- needs: session
-- Returns the head of a session.

local head = load_head()
if not published(head) then
  return {'none'}
end
return {'head', token(head), head.authority, text(head.fence), text(head.confirmed_at), text(now_us()), head.heard,
  head.rollout, head.experiments}
