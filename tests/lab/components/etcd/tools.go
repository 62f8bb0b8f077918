//go:build tools

// Package etcd names the programs that the lab builds, so that go.mod and go.sum pin them.
package etcd

import (
	_ "go.etcd.io/etcd/server/v3"
)
