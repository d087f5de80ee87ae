-- instructions: in a chunk made at run time
load "while true do end"()
