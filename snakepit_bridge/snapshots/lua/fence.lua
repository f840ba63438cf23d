-- needs: session, life
-- Raises the fence: publishes with an older one are rejected from now on. ARGV: the publisher.
-- Run twice it raises twice and returns the current fence either way, so it needs no request marker.

local head = load_head()
if head.authority ~= '' and head.authority ~= ARGV[1] then
  return {'owned', head.authority}
end
head.authority = ARGV[1]
-- A time, as for epochs, so that no fence is reused after a drop or the loss of the log.
head.fence = math.max(now_us(), head.fence + 1)
save_head(head)
if not published(head) then
  live(head)
end
return {'fence', text(head.fence)}
