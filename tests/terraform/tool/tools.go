//go:build tools

// Package tool keeps the version of Terraform that the check builds when there is none.
package tool

import _ "github.com/hashicorp/terraform"
