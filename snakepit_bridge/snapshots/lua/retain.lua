-- needs: session, life
-- Sets the session's retention. ARGV: its own one, '' for none, and the caller's default. Without arguments it returns
-- the session's own.

local head = load_head()
if not published(head) then
  return {'none'}
end
if ARGV[1] then
  head.retention, head.usual = ARGV[1], ARGV[2]
  save_head(head)
  trim(head)
  live(head)
end
return {'retention', head.retention}
