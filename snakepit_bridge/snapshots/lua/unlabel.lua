-- needs: session, life, state
-- Removes a label. ARGV: the label.

local head = load_head()
if not published(head) then
  return {'none'}
end
redis.call('HDEL', LABELS, ARGV[1])
forget_unlabelled(head)
return {'unlabelled'}
