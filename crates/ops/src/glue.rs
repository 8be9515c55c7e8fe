//! From plain functions over slices to differentiable burn operators.
//!
//! An operator is two functions in its `flex.rs`, free of burn:
//! `forward(&Options, [View; N]) -> (output, saved)` and
//! `backward(&Options, needs, [View; N], output, saved, gradient) -> [Option<Array>; N]`.
//! [`operator!`] makes a backend extension of them: dispatch at run time, an autodiff node whose
//! state is the inputs, the output and `saved`. With a `cube.rs` beside it, which has the same two
//! functions over [`CubeTensor`](crate::cube), the operator runs on GPUs too; without one it is for the
//! processor alone, and its public function asks where it is ([`on_cpu`]).

use burn::tensor::{Bytes, DType};
use burn_flex::{FlexTensor, Layout};

/// A contiguous row-major f32 tensor, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Elements, row-major.
    pub data: &'a [f32],
    /// Sizes, outermost first.
    pub shape: &'a [usize],
}

impl View<'_> {
    /// Size of the innermost dimension.
    pub fn width(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Number of innermost rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width().max(1)
    }
}

/// A contiguous row-major f32 tensor, owned.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// Elements, row-major.
    pub data: Vec<f32>,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl Array {
    /// Wraps `data`, whose length is the product of `shape`.
    pub fn new(data: Vec<f32>, shape: &[usize]) -> Self {
        debug_assert_eq!(data.len(), shape.iter().product::<usize>());
        Self { data, shape: shape.to_vec() }
    }

    /// The operator saves nothing for its backward pass.
    pub fn nothing() -> Self {
        Self { data: Vec::new(), shape: vec![0] }
    }
}

/// Makes a tensor contiguous f32; operators compute in f32 whatever the storage.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert_eq!(tensor.dtype(), DType::F32, "recast operators take f32 tensors");
    // A prefix or slice of a larger buffer is used where it lies; only real strides are copied.
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

pub(crate) fn view(tensor: &FlexTensor) -> View<'_> {
    View {
        data: tensor.as_slice::<f32>().expect("made contiguous f32 by `contiguous`"),
        shape: tensor.layout().shape().as_slice(),
    }
}

pub(crate) fn wrap(array: Array) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(array.data), Layout::contiguous(array.shape.into()), DType::F32)
}

/// A CPU tensor's elements, to be read where they lie.
pub(crate) struct Slice(FlexTensor);

impl Slice {
    pub(crate) fn as_slice(&self) -> &[f32] {
        self.view().data
    }

    pub(crate) fn view(&self) -> View<'_> {
        view(&self.0)
    }
}

/// Takes a tensor without gradient that lies on the processor ([`on_cpu`]).
pub(crate) fn slice<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Slice {
    Slice(contiguous(flex(tensor)))
}

/// The processor's own tensor of one without gradient that lies there.
pub(crate) fn flex<const D: usize>(tensor: burn::tensor::Tensor<D>) -> FlexTensor {
    use burn::backend::{BackendTensor, DispatchTensorKind};
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => tensor,
        _ => panic!("a tensor that is read in place lies on the processor and has no gradient"),
    }
}

/// The way back.
pub(crate) fn from_flex<const D: usize>(tensor: FlexTensor) -> burn::tensor::Tensor<D> {
    burn::tensor::Tensor::from_primitive::<burn::backend::Flex>(tensor)
}

/// Whether the tensor's device is the processor.
pub(crate) fn on_cpu<const D: usize>(tensor: &burn::tensor::Tensor<D>) -> bool {
    #[cfg(feature = "cube")]
    {
        tensor.device().inner() == burn::tensor::Device::flex()
    }
    #[cfg(not(feature = "cube"))]
    {
        let _ = tensor;
        true
    }
}

/// Declares the burn extension of an operator: `operator!(Trait, Options, forward_name,
/// backward_name, flex_module, N, [inputs...])`, with `, cube` behind it where there is a `cube.rs`.
macro_rules! operator {
    ($Trait:ident, $Options:ty, $forward:ident, $backward:ident, $flex:ident, $n:literal, [$($x:ident),+]) => {
        // The extension macro must see the output types as plain tokens, one an input.
        $crate::glue::operator!(
            @ [Autodiff, Flex] $Trait, $Options, $forward, $backward, $flex, $n, [$($x FloatTensor),+]
        );
    };
    ($Trait:ident, $Options:ty, $forward:ident, $backward:ident, $flex:ident, $n:literal, [$($x:ident),+], cube) => {
        $crate::glue::operator!(
            @ [Autodiff, Flex, Cube: cfg(feature = "cube")]
            $Trait, $Options, $forward, $backward, $flex, $n, [$($x FloatTensor),+]
        );
        #[cfg(feature = "cube")]
        $crate::glue::operator!(@cube $Trait, $Options, $forward, $backward, $n, [$($x FloatTensor),+]);
    };
    (@cube $Trait:ident, $Options:ty, $forward:ident, $backward:ident, $n:literal, [$($x:ident $Float:ident),+]) => {
        mod extension_on_cube {
            use super::extension::$Trait;
            #[allow(unused_imports)]
            use super::*;
            use burn::backend::tensor::FloatTensor;
            use $crate::cube::{contiguous, nothing};

            impl $Trait for burn_cubecl::CubeBackend {
                fn $forward(options: $Options, $($x: FloatTensor<Self>),+)
                    -> (FloatTensor<Self>, FloatTensor<Self>)
                {
                    super::cube::forward(&options, [$( contiguous($x) ),+])
                }

                fn $backward(
                    options: $Options, needs: [bool; $n], $($x: FloatTensor<Self>,)+
                    output: FloatTensor<Self>, saved: FloatTensor<Self>, gradient: FloatTensor<Self>,
                ) -> ($( $Float<Self>, )+) {
                    let empty = nothing(&gradient);
                    let [$($x),+] = super::cube::backward(
                        &options, needs, [$( contiguous($x) ),+],
                        contiguous(output), contiguous(saved), contiguous(gradient),
                    );
                    ($( $x.unwrap_or_else(|| empty.clone()), )+)
                }
            }
        }
    };
    (@ [$($backends:tt)*] $Trait:ident, $Options:ty, $forward:ident, $backward:ident, $flex:ident,
     $n:literal, [$($x:ident $Float:ident),+]) => {
        mod extension {
            #[allow(unused_imports)]
            use super::*;
            use burn::backend::autodiff::{
                checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
                grads::Gradients,
                ops::{Backward, Ops, OpsKind},
            };
            use burn::backend::{Autodiff, Backend, Flex, backend_extension, tensor::FloatTensor};
            use $crate::glue::{Array, contiguous, view, wrap};

            /// Backend side of the operator; one implementation a backend.
            #[backend_extension($($backends)*)]
            pub trait $Trait: Backend {
                /// Output and what the backward pass needs beside inputs and output.
                fn $forward(options: $Options, $($x: FloatTensor<Self>),+)
                    -> (FloatTensor<Self>, FloatTensor<Self>);
                /// Gradients of the inputs that `needs` names (empty tensors elsewhere).
                fn $backward(
                    options: $Options,
                    needs: [bool; $n],
                    $($x: FloatTensor<Self>,)+
                    output: FloatTensor<Self>,
                    saved: FloatTensor<Self>,
                    gradient: FloatTensor<Self>,
                ) -> ($( $Float<Self>, )+);
            }

            impl<B: $Trait, C: CheckpointStrategy> $Trait for Autodiff<B, C> {
                fn $forward(options: $Options, $($x: FloatTensor<Self>),+)
                    -> (FloatTensor<Self>, FloatTensor<Self>)
                {
                    #[derive(Debug)]
                    struct Node;
                    #[derive(Clone, Debug)]
                    struct State<T> {
                        options: $Options,
                        inputs: [T; $n],
                        output: T,
                        saved: T,
                    }
                    impl<B: $Trait> Backward<B, $n> for Node {
                        type State = State<FloatTensor<B>>;
                        fn backward(
                            self,
                            ops: Ops<Self::State, $n>,
                            grads: &mut Gradients,
                            _: &mut Checkpointer,
                        ) {
                            let gradient = grads.consume::<B>(&ops.node);
                            let needs = ops.parents.each_ref().map(Option::is_some);
                            let [$($x),+] = ops.state.inputs;
                            let ($($x,)+) = B::$backward(
                                ops.state.options, needs, $($x,)+
                                ops.state.output, ops.state.saved, gradient,
                            );
                            let mut parents = ops.parents.into_iter();
                            $(
                                if let Some(Some(node)) = parents.next() {
                                    grads.register::<B>(node.id, $x);
                                }
                            )+
                        }
                    }
                    $( let $x = $x.into_parts(); )+
                    match Node.prepare::<C>([$($x.1),+]).compute_bound().stateful() {
                        OpsKind::Tracked(prep) => {
                            let (output, saved) = B::$forward(options.clone(), $($x.0.clone()),+);
                            let state = State {
                                options,
                                inputs: [$($x.0),+],
                                output: output.clone(),
                                saved: saved.clone(),
                            };
                            let output = prep.finish(state, output);
                            (output, <Self as $crate::glue::Untracked<B>>::untracked(saved))
                        }
                        OpsKind::UnTracked(prep) => {
                            let (output, saved) = B::$forward(options, $($x.0),+);
                            (prep.finish(output), <Self as $crate::glue::Untracked<B>>::untracked(saved))
                        }
                    }
                }

                fn $backward(
                    _: $Options, _: [bool; $n], $($x: FloatTensor<Self>,)+
                    _: FloatTensor<Self>, _: FloatTensor<Self>, _: FloatTensor<Self>,
                ) -> ($( $Float<Self>, )+) {
                    $( let _ = $x; )+
                    unreachable!("second-order gradients are not defined for this operator")
                }
            }

            impl $Trait for Flex {
                fn $forward(options: $Options, $($x: FloatTensor<Self>),+)
                    -> (FloatTensor<Self>, FloatTensor<Self>)
                {
                    $( let $x = contiguous($x); )+
                    let (output, saved) = super::$flex::forward(&options, [$(view(&$x)),+]);
                    (wrap(output), wrap(saved))
                }

                fn $backward(
                    options: $Options, needs: [bool; $n], $($x: FloatTensor<Self>,)+
                    output: FloatTensor<Self>, saved: FloatTensor<Self>, gradient: FloatTensor<Self>,
                ) -> ($( $Float<Self>, )+) {
                    $( let $x = contiguous($x); )+
                    let (output, saved, gradient) =
                        (contiguous(output), contiguous(saved), contiguous(gradient));
                    let [$($x),+] = super::$flex::backward(
                        &options, needs, [$(view(&$x)),+], view(&output), view(&saved), view(&gradient),
                    );
                    ($( wrap($x.unwrap_or_else(Array::nothing)), )+)
                }
            }
        }
        use extension::$Trait;
    };
}
pub(crate) use operator;

/// Lifts an inner tensor into an autodiff one without gradient.
pub trait Untracked<B: burn::backend::Backend>: burn::backend::Backend {
    /// The same values, outside the graph.
    fn untracked(tensor: burn::backend::tensor::FloatTensor<B>) -> burn::backend::tensor::FloatTensor<Self>;
}

impl<B, C> Untracked<B> for burn::backend::Autodiff<B, C>
where
    B: burn::backend::Backend,
    C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy,
{
    fn untracked(tensor: burn::backend::tensor::FloatTensor<B>) -> burn::backend::tensor::FloatTensor<Self> {
        <Self as burn::backend::AutodiffBackend>::from_inner(tensor)
    }
}
