-- needs: session
-- Returns what has happened to the session's rollouts or experiments. ARGV: which of the two; the position behind which to begin, '-' for the first one;
-- how many.

local head = load_head()
if not published(head) then
  return {'none'}
end
return {'events', redis.call('XRANGE', ARGV[1] == 'rollouts' and ROLLOUTS or EXPERIMENTS, ARGV[2], '+', 'COUNT', ARGV[3])}
