-- ok: control bytes, escaped by the reader
print "\27[2J\27]0;title\7\0\r\155"
