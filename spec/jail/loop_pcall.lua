-- instructions 2: catches the error of every limit that is one
while true do pcall(function() while true do end end) end
