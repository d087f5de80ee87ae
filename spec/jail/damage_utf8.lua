-- ok/error: codes over bytes that are no UTF-8
for _ in utf8.codes("ab\x80c", true) do end
