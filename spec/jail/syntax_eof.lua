-- syntax 3: an end is missing
if true then
