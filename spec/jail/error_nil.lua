-- error 2: nil is raised
error()
