-- needs: session
-- Returns what has happened to the session's rollouts. ARGV: the position behind which to begin, '-' for the first one;
-- how many.

local head = load_head()
if not published(head) then
  return {'none'}
end
return {'events', redis.call('XRANGE', ROLLOUTS, ARGV[1], '+', 'COUNT', ARGV[2])}
