-- error 2: loads no library
require "posix.unistd"
