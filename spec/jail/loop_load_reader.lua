-- instructions: a reader that never ends
load(function() while true do end end)
