-- error 2: finds no file
require "../../etc/passwd"
