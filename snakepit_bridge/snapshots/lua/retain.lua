-- needs: session, life, redis/audit
-- Sets the session's retention. ARGV: its own one, '' for none, the caller's default, author, reason; then those of
-- redis/audit. Without arguments it returns the session's own.

local head = load_head()
if not published(head) then
  return {'none'}
end
if ARGV[1] then
  local changed = head.retention ~= ARGV[1]
  head.retention, head.usual = ARGV[1], ARGV[2]
  save_head(head)
  trim(head)
  live(head)
  if changed then
    record_change('retain', ARGV[3], ARGV[4], token(head), token(head))
  end
end
return {'retention', head.retention}
