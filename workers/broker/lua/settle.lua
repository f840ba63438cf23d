-- needs: settling
-- End claims of one worker.
-- KEYS: messages held by the worker, delayed, dead-letter list, dead-letter entries. ARGV: for each claim verb, tag,
--   place, bytes.
-- Returns how many were held. Idempotent.

local settled = 0
for at = 1, #ARGV, 4 do
  settled = settled + settle(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
return settled
