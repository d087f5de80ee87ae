-- output 2: prints for ever
while true do print "flood" end
