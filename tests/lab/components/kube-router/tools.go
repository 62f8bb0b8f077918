//go:build tools

// Package kuberouter names the programs that the lab builds, so that go.mod and go.sum pin them.
package kuberouter

import (
	_ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
)
