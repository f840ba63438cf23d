-- needs: session, life
-- How much of the session is kept. ARGV: its own retention, '' for none, and the usual one of whoever asks. Without
-- arguments it answers the session's own.

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
