-- instructions/memory/time: a reader that gives a space for ever
load(function() return "                " end)
