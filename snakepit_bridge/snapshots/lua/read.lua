-- needs: session
-- Returns what a reader lacks: nothing ('same'), the changes since its token ('delta'), or the whole state ('full').
-- ARGV: epoch and revision of the reader's snapshot, '' for none.

-- For readers further behind, the whole state is about as small and cheaper to compute.
local DELTA_REVISIONS = 128

local function changed_since(head, revision)
  if head.revision - revision > DELTA_REVISIONS then
    return nil
  end
  local entries = redis.call('XRANGE', HISTORY, text(revision + 1) .. '-0', '+')
  if #entries < head.revision - revision then
    return nil -- trimmed
  end
  local values, flat = {}, {}
  for _, entry in ipairs(entries) do
    local _, fields = read_entry(entry)
    local changes = cmsgpack.unpack(fields.changes)
    for i = 1, #changes, 3 do
      values[changes[i]] = changes[i + 2]
    end
  end
  for name, value in pairs(values) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  return flat
end

local head = load_head()
if not published(head) then
  return {'none'}
end
local epoch, revision = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch == head.epoch and revision == head.revision then
  return {'same', text(head.confirmed_at), head.heard, head.rollout, head.experiments}
end
if epoch and standing(head, epoch, revision) == 'ahead' then
  -- The reader has seen revisions that this server lost in a failover: open an epoch, so that their tokens aren't
  -- reused.
  open_epoch(head, math.max(head.epoch, epoch))
  save_head(head)
end
local published_at = text(head.published_at)
local changes = epoch and standing(head, epoch, revision) == 'held' and changed_since(head, revision)
if changes then
  return {'delta', text(head.confirmed_at), head.heard, token(head), head.epochs, head.authority, changes, published_at,
    head.rollout, head.experiments}
end
local all = redis.call('HGETALL', VARIABLES)
return {'full', text(head.confirmed_at), head.heard, token(head), head.epochs, head.authority, all, published_at,
  head.rollout, head.experiments}
