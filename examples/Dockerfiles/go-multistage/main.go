package main

import (
	"fmt"
	"os"
	"strings"
)

var version = "unknown"

func main() {
	fmt.Printf("hello, %s (greet %s)\n", strings.Join(os.Args[1:], " "), version)
}
