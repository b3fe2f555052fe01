-- wrk at a steady rate: wrk ... -s pace.lua URL -- RATE
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds, nanoseconds; } cubby_time;
int clock_gettime(int clock, cubby_time *time);
]]
local MONOTONIC = 1
local time = ffi.new("cubby_time")
local between, due

local function now()
   ffi.C.clock_gettime(MONOTONIC, time)
   return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

function init(args)
   between = 1 / tonumber(args[1])
end

-- Milliseconds until the next request is due. Being behind by more than a tenth of a second is not made up for.
function delay()
   local present = now()
   due = math.max((due or present) + between, present - 0.1)
   return math.max(0, math.floor((due - present) * 1000))
end
