-- error 2: a table is raised
error({})
