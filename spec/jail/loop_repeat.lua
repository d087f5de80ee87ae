-- instructions 2: an endless repeat
repeat until false
