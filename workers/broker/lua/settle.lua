-- needs: settling
-- Ends claims of one worker.
-- KEYS: held of the worker, delayed, dead, entries of the dead. ARGV: for each claim verb, tag, place, bytes.
-- Answers how many were held. Run twice it does nothing more.

local settled = 0
for at = 1, #ARGV, 4 do
  settled = settled + settle(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
return settled
