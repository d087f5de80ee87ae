-- syntax: a goto without a label
goto nowhere
