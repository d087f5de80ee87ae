-- instructions 2: the plainest endless loop
while true do end
