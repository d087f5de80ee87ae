-- For the specs: seconds enough for any script on a slow machine.
return { jail_time = 60 }
