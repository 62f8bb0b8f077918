//go:build tools

// Package localpath names the programs that the lab builds, so that go.mod and go.sum pin them.
package localpath

import (
	_ "github.com/rancher/local-path-provisioner"
)
