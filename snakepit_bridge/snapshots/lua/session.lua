-- Library: the layout of a session, for every script of the snapshot store. Values are opaque bytes: they are stored
-- and compared, never parsed, because cjson changes numbers.
--
-- All keys of a session share one hash tag:
--   HEAD       hash: epoch, revision, run, replid, epochs, authority, fence, confirmed_at, heard, checks, retention,
--              usual, published_at, rollout, experiments
--   VARIABLES  hash: name -> encoded variable
--   HISTORY    stream: one entry per revision, its id being <revision>-0
--   FLOOR      string: the last epoch of a dropped session, so that its next one is larger (expires)
--   LABELS     hash: label -> packed token, time, author, reason
--   LABELLED   hash: token -> packed state, of labelled tokens, which outlive their history
--   CHECKS     hash: name -> check
--   ROLLOUTS   stream: what has happened to the session's rollouts
--   EXPERIMENTS  stream: what has happened to its experiments
--
-- heard is the time of the authority's last heartbeat, and for how long it may be silent until it counts as
-- unreachable: "at_us silence_us", '' for an authority without such a limit.
--
-- published_at is the time of the current revision's publish, 0 if it was published by an earlier version.
--
-- rollout is the record of what stages the current revision, '' for none; see rollouts/records.py. The state of its
-- baseline is kept with those of labels. experiments is the text of those that run, '' for none; the states of their arms
-- are kept as well.
--
-- checks is the version of the current checks, '' for none. retention is the session's own, '' for none; usual is the
-- default of its last publisher: "revisions age_us ttl_ms", 0 for no limit.
--
-- An epoch belongs to one server process while it is the primary: run is its run id, replid its replication id, which
-- changes when a replica is promoted. So no two servers publish in one epoch, and a token of an epoch that isn't among
-- `epochs` was issued by a server whose data this one never had.
--
-- Epochs, times and revisions stay below 2^53, so Lua's doubles are exact; `text` formats them without an exponent.

local HEAD, VARIABLES, HISTORY, FLOOR = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local LABELS, LABELLED, CHECKS, ROLLOUTS, EXPERIMENTS = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]

-- Bounds the size of heads on a server that restarts often; tokens of dropped epochs count as lost.
local EPOCHS_KEPT = 64
-- A fence or a check may precede the first publish, but expires without one.
local UNPUBLISHED_MS = 24 * 3600 * 1000
-- How long a dropped session's last epoch is kept, so that a new one of the same name begins with a larger epoch even
-- if the server's clock is set back in between.
local FLOOR_MS = 30 * 24 * 3600 * 1000

local function text(number)
  return string.format('%.0f', number)
end

-- Read once per script: Valkey's clock is frozen while a script runs, Redis 7.0's isn't.
local clock_us
local function now_us()
  if not clock_us then
    local time = redis.call('TIME')
    clock_us = time[1] * 1000000 + time[2]
  end
  return clock_us
end

-- Returns the server's run id and its replication id as a primary. Both are found as plain text: a pattern is tried at
-- every one of the thousands of places before them.
local function identity()
  local info = redis.call('INFO', 'server', 'replication')
  local function field(name)
    local _, last = string.find(info, name, 1, true)
    return string.match(info, '^%w+', last + 1)
  end
  return field('run_id:'), field('master_replid:')
end

local function token(head)
  return text(head.epoch) .. '.' .. text(head.revision)
end

-- Deletes the rest of a session whose head is gone, since it would clash with new revisions.
local function save_head(head)
  if head.fresh then
    redis.call('DEL', VARIABLES, HISTORY, LABELS, LABELLED, CHECKS, ROLLOUTS, EXPERIMENTS)
    head.fresh = false
  end
  redis.call('HSET', HEAD, 'epoch', text(head.epoch), 'revision', text(head.revision), 'run', head.run,
    'replid', head.replid, 'epochs', head.epochs, 'authority', head.authority, 'fence', text(head.fence),
    'confirmed_at', text(head.confirmed_at), 'heard', head.heard, 'checks', head.checks, 'retention', head.retention,
    'usual', head.usual, 'published_at', text(head.published_at), 'rollout', head.rollout,
    'experiments', head.experiments)
end

-- Returns a number for an epoch that is larger than an older one and unique among servers: the current microsecond. If
-- the clock is behind the older one, two servers could choose the same successor, so each adds a digest of its run, the
-- session and the time.
local function new_epoch(head, older)
  if now_us() > older then
    return now_us()
  end
  local digest = redis.sha1hex(table.concat({head.run, head.replid, HEAD, text(now_us()), text(older)}, ' '))
  return older + 1 + tonumber(string.sub(digest, 1, 5), 16)
end

-- Opens a new epoch at the head's revision: a server that may have lost the tail of its log, or was a replica that
-- lagged behind, would otherwise reuse revision numbers.
local function open_epoch(head, older)
  head.epoch = new_epoch(head, older)
  local epochs = {}
  for entry in string.gmatch(head.epochs, '%S+') do
    epochs[#epochs + 1] = entry
  end
  epochs[#epochs + 1] = text(head.epoch) .. ':' .. text(head.revision)
  if #epochs > EPOCHS_KEPT then
    table.remove(epochs, 1)
    epochs[1] = string.match(epochs[1], '^%d+') .. ':0'
  end
  head.epochs = table.concat(epochs, ' ')
end

-- Returns the session's head, in an epoch of this server's run. A session without one gets a new head, which is
-- invisible until it is saved.
local function load_head()
  local found = redis.call('HMGET', HEAD, 'epoch', 'revision', 'run', 'epochs', 'authority', 'fence', 'confirmed_at',
    'checks', 'retention', 'usual', 'replid', 'heard', 'published_at', 'rollout', 'experiments')
  local run, replid = identity()
  if not found[1] then
    local head = {revision = 0, run = run, replid = replid, epochs = '', authority = '', fence = 0, confirmed_at = 0,
      heard = '', checks = '', retention = '', usual = '', published_at = 0, rollout = '', experiments = '', fresh = true}
    open_epoch(head, tonumber(redis.call('GET', FLOOR) or 0))
    return head
  end
  local head = {epoch = tonumber(found[1]), revision = tonumber(found[2]), run = found[3], epochs = found[4],
    authority = found[5], fence = tonumber(found[6]), confirmed_at = tonumber(found[7]), heard = found[12] or '',
    checks = found[8] or '', retention = found[9] or '', usual = found[10] or '', replid = found[11] or replid,
    published_at = tonumber(found[13] or 0), rollout = found[14] or '', experiments = found[15] or ''}
  if head.run ~= run or head.replid ~= replid then
    head.run, head.replid = run, replid
    open_epoch(head, head.epoch)
    save_head(head)
  elseif not found[11] then
    save_head(head) -- by an earlier version, which knew processes alone
  end
  return head
end

-- A head may exist before the first publish, for its fence or its checks; the session exists from the first revision
-- on.
local function published(head)
  return head.revision > 0
end

-- Returns 'held' for a past or current state of the session, 'lost' for one that was lost with its epoch or published
-- by another server, 'ahead' for one that hasn't been published. A token is valid from its epoch's start revision to
-- that of the next epoch.
local function standing(head, epoch, revision)
  if epoch > head.epoch or (epoch == head.epoch and revision > head.revision) then
    return 'ahead'
  end
  local from
  for opened, start in string.gmatch(head.epochs, '(%d+):(%d+)') do
    opened, start = tonumber(opened), tonumber(start)
    if opened == epoch then
      from = start
    elseif opened > epoch and revision > start then
      return 'lost'
    end
  end
  return from and from <= revision and 'held' or 'lost'
end

-- Returns the token of a revision: with the last epoch that began before it.
local function token_of(head, revision)
  local epoch = '0'
  for opened, start in string.gmatch(head.epochs, '(%d+):(%d+)') do
    if tonumber(start) < revision then
      epoch = opened
    end
  end
  return epoch .. '.' .. text(revision)
end

-- Returns one stream entry as {revision, fields by name}.
local function read_entry(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  return tonumber(string.match(entry[1], '^%d+')), fields
end
