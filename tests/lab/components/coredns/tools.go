//go:build tools

// Package coredns names the programs that the lab builds, so that go.mod and go.sum pin them.
package coredns

import (
	_ "github.com/coredns/coredns"
)
