package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// catalogue is the file: the schema of each resource and data source by name.
type catalogue struct {
	Resources   map[string]body `json:"resources"`
	DataSources map[string]body `json:"data_sources"`
}

type body struct {
	Attributes map[string]attribute `json:"attributes"`
	Blocks     map[string]nested    `json:"blocks"`
}

// attribute has its type as "string", "number", "bool", "dynamic" or ["list" or "map", type].
type attribute struct {
	Type     any  `json:"type"`
	Required bool `json:"required"`
	Computed bool `json:"computed"`
}

// nested is a block: "single" may stand once, "list" as often as one likes.
type nested struct {
	Nesting  string `json:"nesting"`
	Required bool   `json:"required"`
	Block    body   `json:"block"`
}

func load(file string) (*tfprotov6.GetProviderSchemaResponse, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("AWS_SCHEMA must name the schema file: %w", err)
	}
	var known catalogue
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	resources, err := schemas(known.Resources)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	dataSources, err := schemas(known.DataSources)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	provider := &tfprotov6.Schema{Block: &tfprotov6.SchemaBlock{Attributes: []*tfprotov6.SchemaAttribute{
		{Name: "region", Type: tftypes.String, Optional: true},
		{Name: "profile", Type: tftypes.String, Optional: true},
		{Name: "allowed_account_ids", Type: tftypes.List{ElementType: tftypes.String}, Optional: true},
	}}}
	return &tfprotov6.GetProviderSchemaResponse{Provider: provider, ResourceSchemas: resources, DataSourceSchemas: dataSources}, nil
}

func schemas(bodies map[string]body) (map[string]*tfprotov6.Schema, error) {
	all := map[string]*tfprotov6.Schema{}
	for name, b := range bodies {
		block, err := blockOf(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = &tfprotov6.Schema{Block: block}
	}
	return all, nil
}

func blockOf(b body) (*tfprotov6.SchemaBlock, error) {
	out := &tfprotov6.SchemaBlock{}
	for name, a := range b.Attributes {
		kind, err := typeOf(a.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.Attributes = append(out.Attributes, &tfprotov6.SchemaAttribute{
			Name: name, Type: kind, Required: a.Required, Optional: !a.Required && !a.Computed, Computed: !a.Required,
		})
	}
	for name, n := range b.Blocks {
		inner, err := blockOf(n.Block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		block := &tfprotov6.SchemaNestedBlock{TypeName: name, Nesting: tfprotov6.SchemaNestedBlockNestingModeList, Block: inner}
		if n.Required {
			block.MinItems = 1
		}
		if n.Nesting == "single" {
			block.MaxItems = 1
		}
		out.BlockTypes = append(out.BlockTypes, block)
	}
	return out, nil
}

func typeOf(t any) (tftypes.Type, error) {
	switch t := t.(type) {
	case string:
		known := map[string]tftypes.Type{"string": tftypes.String, "number": tftypes.Number, "bool": tftypes.Bool, "dynamic": tftypes.DynamicPseudoType}
		if kind, ok := known[t]; ok {
			return kind, nil
		}
	case []any:
		if len(t) != 2 {
			break
		}
		element, err := typeOf(t[1])
		if err != nil {
			return nil, err
		}
		if t[0] == "map" {
			return tftypes.Map{ElementType: element}, nil
		}
		return tftypes.List{ElementType: element}, nil
	}
	return nil, fmt.Errorf("unknown type %v", t)
}
