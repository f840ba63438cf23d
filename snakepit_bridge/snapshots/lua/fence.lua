-- needs: session, life
-- Raises the fence: whoever publishes with an older one is refused from here on. ARGV: the publisher.
-- Run twice it raises twice and answers the current fence either way, so it needs no memory of its requests.

local head = load_head()
if head.authority ~= '' and head.authority ~= ARGV[1] then
  return {'owned', head.authority}
end
head.authority = ARGV[1]
-- Like epochs, so that no fence is given out twice when a drop or a lost log took the last one along.
head.fence = math.max(now_us(), head.fence + 1)
save_head(head)
if not published(head) then
  live(head)
end
return {'fence', text(head.fence)}
