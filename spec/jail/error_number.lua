-- error 2: a number is raised
error(42)
