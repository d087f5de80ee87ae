-- instructions: select with many arguments
while true do select("#", table.unpack({}, 1, 200)) end
