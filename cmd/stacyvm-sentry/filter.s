// Lets filter.go declare a function without a body.
