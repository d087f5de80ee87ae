-- error 2: reads no file
dofile "/etc/passwd"
