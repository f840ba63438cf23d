-- needs: redis/audit
-- Library: the rollout of a label, for every script that starts, changes or ends one. All keys of a program share one
-- hash tag:
--   PROGRAM  hash: "label:<label>" as "<n> <digest>", "rollout:<label>" as the line of text that rollouts/records.py
--            describes, "rollout_policy:<label>" as JSON,
--            "experiments:<label>" as JSON of those that run
--   EVENTS   stream: what has happened to the label's rollouts
--
-- The record of a decided rollout stays until the next one starts or the label is moved.

local PROGRAM, EVENTS = KEYS[1], KEYS[2]

local NOW = redis.call('TIME')
local EVENTS_KEPT = 1000
local UNDECIDED = {new = true, running = true, paused = true}

-- Returns whether a record, false for none, is of a rollout that is undecided.
local function is_open(record)
  return record and UNDECIDED[string.match(record, '^%S+ %d+ (%S+) ')] or false
end

-- Returns the number of a version, '' for none, which an entry has before its digest.
local function version_of(entry)
  return string.match(entry or '', '^%d+') or ''
end

-- Returns the server's time in microseconds.
local function now_text()
  return string.format('%.0f', NOW[1] * 1000000 + NOW[2])
end

-- Appends an event, and records it in the audit trail. `detail` is JSON text.
local function record_event(kind, record, author, reason, detail)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'record', record, 'author', author,
    'reason', reason, 'detail', detail, 'at', now_text())
  local baseline, candidate = string.match(record, '(%S+) (%S+)$')
  record_change('rollout.' .. kind, author, reason, version_of(baseline), version_of(candidate))
end
